"""Numbers that settle arguments. Nothing is built here yet."""
