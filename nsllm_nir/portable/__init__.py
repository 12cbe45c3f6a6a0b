"""The portable profile: programs as NIR chains that stock readers run spike for spike."""
