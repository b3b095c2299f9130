"""The web page: a browser's camera, or one beside the server, and clips, answered by one engine.

It knows engines by their protocol alone, and watches through the loop that `egolive run` uses.
"""
