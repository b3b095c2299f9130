"""From prompts to answers: generation requests, conversations, and the audit of reuse."""
