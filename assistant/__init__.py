"""From a window or a picture and a task to an answer: engines, prompts, parsing, overlay, command line."""
