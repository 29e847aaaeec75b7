"""What the paper's runs take: forwards, bytes and hours; what would bound them on many processes (docs/scale.md)."""
