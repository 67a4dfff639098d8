/* What a library is compiled with: compiling.py gives COMPILED_WITH, the options, and a source's names and numbers on the compiler's
 * command line. */

#ifndef MADE_WITH_H
#define MADE_WITH_H

#ifndef COMPILED_WITH
#error "compiled by engine/steppers/native/compiling.py only"
#endif

/* The compiler, and on a second line the options it was called with. */
#ifdef __clang__
#define MADE_WITH "clang " __clang_version__ "\n" COMPILED_WITH
#else
#define MADE_WITH "gcc " __VERSION__ "\n" COMPILED_WITH
#endif

#endif
