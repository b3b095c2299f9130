"""The Live tab: pictures of a browser's camera, sessions of visitors, and their routes."""
