// A shared object that unwound.cpp loads, to stand on the stack.
extern "C" int unwound_call_back(int (*f)(int), int n) {
    int volatile result = f(n);
    return result + 1;
}
