"""Values that cross module boundaries: answers, profiles, coordinates, the engine protocol, tokenizer."""
