"""What not every machine can show; each module is run by hand: ``python -m tests.by_hand.NAME``."""
