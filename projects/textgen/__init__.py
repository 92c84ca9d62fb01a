"""Text generation: from a character RNN to a GPT that loads foreign weights."""
