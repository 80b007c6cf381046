"""What should happen: a snapshot in, a plan out. Pure functions of values and an instant."""
