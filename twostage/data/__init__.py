"""Image data sets by name, their loader, and the frozen codes between the two stages."""

from twostage.registry import Registry

DATASETS = Registry(
    "dataset",
    {
        "shapes": "twostage.data.shapes:Shapes",
        "idx": "twostage.data.idx:Idx",
        "cifar10": "twostage.data.cifar10:CIFAR10",
        "folder": "twostage.data.folder:Folder",
    },
    provided=("split",),
)
