"""The words everybody uses: specs, transitions, protocols, clock, errors, plug-ins."""
