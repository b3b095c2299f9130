"""The web page of `egolive demo`: live camera and clips.

It uses engines by their protocol alone, and runs streams with the loop that `egolive run` uses.
"""
