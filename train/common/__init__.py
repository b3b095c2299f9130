"""What all kinds of training share: recipes, run folders, the loop, plots, cards."""
