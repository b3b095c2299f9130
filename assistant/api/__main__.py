"""`python -m egolive`: the command line."""

from egolive.assistant.cli.main import main

if __name__ == "__main__":
    main()
