"""Settings: what they are (`schema`), how they are read (`load`), changed (`edit`), described (`reference`). Pure."""
