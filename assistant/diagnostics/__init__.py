"""`egolive doctor`: what fits this machine, and measurements that prove a model on it."""
