"""Games in words, played turn by turn in processes of their own."""
