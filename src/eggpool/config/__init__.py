"""Settings: what they are (`schema`), how they are read (`load`), changed (`edit`) and described (`reference`). Pure."""
