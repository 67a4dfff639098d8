"""What every command shares on the screen: arguments, tables, progress, messages, output."""
