"""Generated scenes: what stands in them, and how they are painted. `scenes` is the way in."""
