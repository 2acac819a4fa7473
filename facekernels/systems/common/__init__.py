"""What the trained systems share: the task's base class, steps, schedules, checkpoints."""
