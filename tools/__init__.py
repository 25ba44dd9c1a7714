import interrupts  # noqa: F401
