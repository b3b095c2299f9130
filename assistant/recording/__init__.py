"""Evidence of single answers, and replays of recorded runs."""
