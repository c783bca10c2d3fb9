"""The page over runs that go and runs that are done: readers that follow their files, and a server on loopback."""
