"""Serial servos of the Dynamixel X series: control table, bus, control loop and a simulated counterpart."""
