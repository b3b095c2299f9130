"""The ablation of GRPO against SFT on the same rows."""
