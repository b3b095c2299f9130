"""Supervised fine-tuning and GRPO of finished checkpoints."""
