"""What mini's tuning is asked for: its seed, its steps, and those that are kept."""

STEPS, SEED = 120, 5
SAVED_STEPS = tuple(STEPS * part // 6 for part in range(1, 7))
