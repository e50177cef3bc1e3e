"""Vector quantisers by name: one file per idea, all behind the interface of `base.Quantizer`."""

from twostage.registry import Registry

QUANTIZERS = Registry(
    "quantizer",
    {
        "vq": "stage1_tokenizer.quantizers.vq:VQ",
        "cvq": "stage1_tokenizer.quantizers.cvq:CVQ",
        "simvq": "stage1_tokenizer.quantizers.simvq:SimVQ",
    },
)
