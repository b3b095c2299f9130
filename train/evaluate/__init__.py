"""Evaluation: questions with known answers, scores, intervals, comparisons."""
