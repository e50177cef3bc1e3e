"""Released CompVis checkpoints as models of this package: one module per kind of model."""
