"""Objects of the simulator: kinds, appearance and sprites."""
