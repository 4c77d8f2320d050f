"""The provider."""
