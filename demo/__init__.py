"""The web page. Nothing is built here yet."""
