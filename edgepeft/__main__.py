"""`python -m edgepeft`: the command `edgepeft`, where only the Python is at hand that has it."""

from edgepeft_command import main

if __name__ == "__main__":
    main()
