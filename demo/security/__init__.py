"""Who may ask the page's server for what: names, origins, passwords, certificates, limits."""
