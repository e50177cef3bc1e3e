"""`twostage evaluate`: what is measured, on which images, and from what, so that a number can be believed."""
