"""Models for others: the card that goes with one, and the one place where something leaves the machine."""
