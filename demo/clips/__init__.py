"""The Clip tab: uploads, decoding in a process of its own, watching, questions, the timeline."""
