"""Vector quantisers by name: one file per idea, all behind the interface of `base.Quantizer`."""

from twostage.registry import Registry

_ONE_CODE = {
    "vq": "stage1_tokenizer.quantizers.vq:VQ",
    "ema": "stage1_tokenizer.quantizers.ema:EMA",
    "hvq": "stage1_tokenizer.quantizers.hvq:HVQ",
    "hard_reset": "stage1_tokenizer.quantizers.hard_reset:HardReset",
    "cvq": "stage1_tokenizer.quantizers.cvq:CVQ",
    "nsvq": "stage1_tokenizer.quantizers.nsvq:NSVQ",
    "simvq": "stage1_tokenizer.quantizers.simvq:SimVQ",
    "transvq": "stage1_tokenizer.quantizers.transvq:TransVQ",
    "gumbel": "stage1_tokenizer.quantizers.gumbel:Gumbel",
    "sqvae": "stage1_tokenizer.quantizers.sqvae:SQVAE",
    "vqwae": "stage1_tokenizer.quantizers.vqwae:VQWAE",
    "fc": "stage1_tokenizer.quantizers.fc:FC",
}

INNER = Registry("quantizer", _ONE_CODE, provided=("codebook_size", "dim"))
"""Those that give a feature one code out of a codebook: what the others are made of."""

QUANTIZERS = Registry(
    "quantizer",
    {
        **_ONE_CODE,
        "residual": "stage1_tokenizer.quantizers.residual:Residual",
        "multichannel": "stage1_tokenizer.quantizers.multichannel:Multichannel",
        "fsq": "stage1_tokenizer.quantizers.fsq:FSQ",
        "lfq": "stage1_tokenizer.quantizers.lfq:LFQ",
    },
)
