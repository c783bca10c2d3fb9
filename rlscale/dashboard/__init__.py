"""The page over runs, live ones included: readers that follow their files, and a server on loopback."""
