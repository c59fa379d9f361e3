/* A PKCS#11 module that is SoftHSM2 with the faults of real parts (T57).
 *
 * Built with -DMODULE="..." (the module behind it), -DFAULT="..." (a file whose first word is the fault at this moment) and -DLOGINS="..." (a
 * file that grows by one byte at each C_Login: a try of the token's PIN). Faults: `flip` one bit of each signature is wrong; `session` the
 * session handle is invalid, as after a suspend; `removed` the device is gone; `slow N` C_Sign takes N seconds; `locked` and `wrong` what C_Login
 * answers, with the token's flag for the first; `final` the token's flag says that one try is left.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { FUNCTIONS = 68, TOKEN_INFO = 6, LOGIN = 18, SIGN = 43 }; /* PKCS#11 2.40 */
enum { PIN_INCORRECT = 0xA0, PIN_LOCKED = 0xA4, DEVICE_REMOVED = 0x32, SESSION_HANDLE_INVALID = 0xB3 };
enum { USER_PIN_FINAL_TRY = 0x20000, USER_PIN_LOCKED = 0x40000, FLAGS_AT = 32 + 32 + 16 + 16 };

typedef unsigned long result_t;
typedef struct {
    unsigned char version[8];
    void *functions[FUNCTIONS];
} function_list_t;
typedef result_t (*sign_t)(unsigned long, unsigned char *, unsigned long, unsigned char *, unsigned long *);
typedef result_t (*login_t)(unsigned long, unsigned long, unsigned char *, unsigned long);
typedef result_t (*token_info_t)(unsigned long, unsigned char *);

static function_list_t faulty;
static sign_t sign_behind;
static login_t login_behind;
static token_info_t info_behind;

static int now(const char *fault)
{
    char word[16] = "";
    FILE *file = fopen(FAULT, "r");
    if (file == NULL)
        return 0;
    int found = fscanf(file, "%15s", word);
    fclose(file);
    return found == 1 && strcmp(word, fault) == 0;
}

static unsigned seconds(void)
{
    unsigned found = 0;
    FILE *file = fopen(FAULT, "r");
    if (file != NULL && fscanf(file, "%*15s %u", &found) != 1)
        found = 10;
    if (file != NULL)
        fclose(file);
    return found;
}

static result_t sign(unsigned long session, unsigned char *data, unsigned long size, unsigned char *made, unsigned long *made_size)
{
    if (now("session"))
        return SESSION_HANDLE_INVALID;
    if (now("removed"))
        return DEVICE_REMOVED;
    if (made != NULL && now("slow"))
        sleep(seconds());
    result_t result = sign_behind(session, data, size, made, made_size);
    if (result == 0 && made != NULL && now("flip"))
        made[*made_size - 1] ^= 1;
    return result;
}

static result_t login(unsigned long session, unsigned long user, unsigned char *pin, unsigned long size)
{
    int file = open(LOGINS, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (file >= 0 && write(file, "x", 1) == 1)
        close(file);
    if (now("locked"))
        return PIN_LOCKED;
    return now("wrong") ? PIN_INCORRECT : login_behind(session, user, pin, size);
}

static result_t token_info(unsigned long slot, unsigned char *info)
{
    unsigned long flags;
    result_t result = info_behind(slot, info);
    if (result == 0) {
        memcpy(&flags, info + FLAGS_AT, sizeof flags);
        flags |= now("locked") ? USER_PIN_LOCKED : 0;
        flags |= now("final") ? USER_PIN_FINAL_TRY : 0;
        memcpy(info + FLAGS_AT, &flags, sizeof flags);
    }
    return result;
}

static void replace(int place, void *behind, void *ours)
{
    memcpy(behind, &faulty.functions[place], sizeof(void *));
    memcpy(&faulty.functions[place], ours, sizeof(void *));
}

result_t C_GetFunctionList(function_list_t **list)
{
    if (sign_behind == NULL) {
        function_list_t *real = NULL;
        result_t (*get)(function_list_t **) = NULL;
        void *module = dlopen(MODULE, RTLD_NOW | RTLD_LOCAL);
        if (module != NULL)
            *(void **)&get = dlsym(module, "C_GetFunctionList");
        if (get == NULL || get(&real) != 0)
            return 5; /* CKR_GENERAL_ERROR */
        memcpy(&faulty, real, sizeof faulty);
        sign_t our_sign = sign;
        login_t our_login = login;
        token_info_t our_info = token_info;
        replace(SIGN, &sign_behind, &our_sign);
        replace(LOGIN, &login_behind, &our_login);
        replace(TOKEN_INFO, &info_behind, &our_info);
    }
    *list = &faulty;
    return 0;
}
