"""What mini's tuning is asked for: its seed, its steps, and those that are kept."""

STEPS, SEED = 560, 5
SAVED_STEPS = tuple(STEPS * part // 4 for part in range(1, 5))
