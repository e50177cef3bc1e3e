"""Image data sets by name, their loader, and the frozen codes between the two stages."""

from twostage.registry import Registry

DATASETS = Registry(
    "dataset",
    {
        "shapes": "twostage.data.shapes:Shapes",
        "idx": "twostage.data.idx:Idx",
        "cifar10": "twostage.data.cifar10:CIFAR10",
        "folder": "twostage.data.folder:folder",
        "imagenet": "twostage.data.imagenet:imagenet",
        "lsun": "twostage.data.lsun:lsun",
        "ffhq": "twostage.data.faces:ffhq",
        "celebahq": "twostage.data.faces:celebahq",
        "webdataset": "twostage.data.webdataset:webdataset",
        "hf": "twostage.data.hf:hf",
        "parquet": "twostage.data.parquet:parquet",
    },
    provided=("split",),
)
