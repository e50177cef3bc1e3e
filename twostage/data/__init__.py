"""Image data sets by name, their loader, and the frozen codes between the two stages."""

from twostage.registry import Registry

DATASETS = Registry(
    "dataset",
    {
        "shapes": "twostage.data.shapes:Shapes",
        "idx": "twostage.data.idx:Idx",
        "folder": "twostage.data.folder:Folder",
    },
    provided=("split",),
)
