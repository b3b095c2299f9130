"""Prompts for each task, grammars for answers, and parsers of what a model wrote."""
