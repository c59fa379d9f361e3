/* A PKCS#11 module that is SoftHSM2 with the speed of a real part: every C_Sign sleeps first.
 *
 * Built with -DMODULE="..." (the module behind it) and -DSPEED="..." (a file that is read at each signature, so that the speed can be changed
 * while everything runs): "first_ms later_ms after_s". The later time counts from `after_s` seconds after the file was written.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { FUNCTIONS = 68, SIGN = 43 }; /* PKCS#11 2.40, from C_Initialize = 0 */

typedef unsigned long result_t;
typedef struct {
    unsigned char version[8];
    void *functions[FUNCTIONS];
} function_list_t;
typedef result_t (*sign_t)(unsigned long, unsigned char *, unsigned long, unsigned char *, unsigned long *);

static function_list_t slow;
static sign_t behind;

static void think(void)
{
    double first = 0, later = 0, after = 0;
    struct stat written;
    FILE *file = fopen(SPEED, "r");
    if (file == NULL)
        return;
    int found = fscanf(file, "%lf %lf %lf", &first, &later, &after);
    int known = fstat(fileno(file), &written);
    fclose(file);
    double ms = found == 3 && known == 0 && difftime(time(NULL), written.st_mtime) >= after ? later : first;
    struct timespec pause = {(time_t)(ms / 1000), (long)((ms - 1000 * (long)(ms / 1000)) * 1e6)};
    while (nanosleep(&pause, &pause) != 0)
        ;
}

static result_t sign(unsigned long session, unsigned char *data, unsigned long size, unsigned char *made, unsigned long *made_size)
{
    if (made != NULL) /* NULL only asks how long the signature will be */
        think();
    return behind(session, data, size, made, made_size);
}

result_t C_GetFunctionList(function_list_t **list)
{
    if (behind == NULL) {
        function_list_t *real = NULL;
        result_t (*get)(function_list_t **) = NULL;
        void *module = dlopen(MODULE, RTLD_NOW | RTLD_LOCAL);
        if (module != NULL)
            *(void **)&get = dlsym(module, "C_GetFunctionList");
        if (get == NULL || get(&real) != 0)
            return 5; /* CKR_GENERAL_ERROR */
        memcpy(&slow, real, sizeof slow);
        *(void **)&behind = slow.functions[SIGN];
        sign_t ours = sign;
        memcpy(&slow.functions[SIGN], &ours, sizeof ours);
    }
    *list = &slow;
    return 0;
}
