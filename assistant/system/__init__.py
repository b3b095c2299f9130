"""Facts about this machine: processor, memory, accelerators, cameras, installed packages."""
