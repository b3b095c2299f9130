"""The threads of a run: capture, think and show, with their queues, scheduling and windows."""
