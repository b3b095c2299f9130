"""Goals, steps and timelines of simulated episodes."""
