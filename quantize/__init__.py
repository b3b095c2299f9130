"""From a checkpoint to an engine folder: export, quantisation, and what each engine gains and loses."""
