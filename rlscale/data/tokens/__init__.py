"""From text to tokens and back: chat templates, tokenizers, ends of turns."""
